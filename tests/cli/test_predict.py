"""zoo predict: a run, its export and the file alone say the same; a video is read frame by frame; what is broken is named and left out."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from zoo.deploy import sources


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    """The classifier's run for onnxruntime; not to be written into."""
    pytest.importorskip("onnxscript", reason="pip install 'effnet-zoo[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")
    from zoo.cli.app import run

    out = tmp_path_factory.mktemp("exports") / "onnx"
    assert run(["export", str(classifier), "--to", "onnx", "--out", str(out), "--rows", "4"]) == 0
    return out


def lines(said):
    return [json.loads(line) for line in said.out.splitlines()]


def test_run_folder_and_file_say_the_same(zoo, classifier, exported, disk):
    said = [lines(zoo("predict", model, disk.folder, "-k", 2, "--json")) for model in (classifier, exported, exported / "model.onnx")]
    assert len(said[0]) == 32 and {each["file"] for each in said[0]} == {str(path) for path in disk.folder.rglob("*.png")}
    for one, *others in zip(*said, strict=True):
        assert sum(each["probability"] for each in one["classes"]) == pytest.approx(1)
        assert one["classes"][0]["probability"] >= one["classes"][1]["probability"]
        for other in others:
            assert other["file"] == one["file"]
            ours, theirs = ({each["class"]: each["probability"] for each in what["classes"]} for what in (one, other))
            assert theirs == pytest.approx(ours, abs=1e-4)


def test_as_a_table(zoo, classifier, disk):
    picture = disk.folder / "dark" / "0.png"
    said = zoo("predict", classifier, picture)
    assert said.code == 0 and "probability" in said.out and "1 pictures, " in said.out and " a second" in said.out


def test_a_broken_picture_is_named_and_left_out(zoo, classifier, disk, tmp_path):
    good, bad = disk.folder / "dark" / "0.png", tmp_path / "cut.png"
    bad.write_bytes(good.read_bytes()[:60])
    said = zoo("predict", classifier, tmp_path / "gone.png", good, bad, disk.folder / "bright", "--json")
    found = lines(said)
    assert said.code == 1 and len(found) == 19
    assert [("broken" in each) for each in found[:4]] == [True, False, True, False]
    assert f"{tmp_path / 'gone.png'}: no such file; left out" in said.err and f"{bad}: " in said.err
    assert "17 pictures" in said.err and "2 could not be read" in said.err


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten frames: five dark, five bright and red."""
    cv2 = pytest.importorskip("cv2", reason="pip install 'effnet-zoo[video]'")
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for number in range(10):
        frame = np.full((24, 32, 3), 20, np.uint8)
        if number >= 5:
            frame[:] = (10, 10, 250)  # blue, green, red
        writer.write(frame)
    writer.release()
    return path


def test_a_video_frame_by_frame(zoo, classifier, video):
    found = lines(zoo("predict", classifier, video, "--json"))
    assert [each["frame"] for each in found] == list(range(10)) and {each["file"] for each in found} == {str(video)}
    some = lines(zoo("predict", classifier, video, "--every", 3, "--frames", 3, "--json"))
    assert [each["frame"] for each in some] == [0, 3, 6]
    for each in some:  # other batches, other rounding
        assert each["classes"][0]["probability"] == pytest.approx(found[each["frame"]]["classes"][0]["probability"], abs=1e-5)
    total, seen = sources.open_sources([str(video)], every=3)
    frames = list(seen)
    assert total == len(frames) == 4
    red, green, blue = np.asarray(frames[-1].picture).reshape(-1, 3).mean(0)
    assert red > 200 and green < 60 and blue < 60, "OpenCV's colours are the other way round"
    assert frames[-1].picture.size == (32, 24)


def test_no_video_and_no_camera(zoo, mistake, classifier, video, tmp_path, monkeypatch):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    said = zoo("predict", classifier, bad, video, "--json")
    assert said.code == 1 and lines(said)[0]["broken"] == "not a video that OpenCV can read" and len(lines(said)) == 11
    said = zoo("predict", classifier, "camera:97", "--json")
    assert said.code == 1 and "no such camera" in lines(said)[0]["broken"]
    assert "expected the number of a camera, such as camera:0" in mistake("predict", classifier, "camera:front")
    monkeypatch.setitem(sys.modules, "cv2", None)
    for source in (video, "camera:0"):
        assert "pip install 'effnet-zoo[video]'" in mistake("predict", classifier, source)


def test_a_camera_until_ctrl_c(zoo, classifier, monkeypatch):
    pytest.importorskip("cv2", reason="pip install 'effnet-zoo[video]'")

    class Camera:
        """Three pictures, then Ctrl-C."""

        def __init__(self, what):
            self.what, self.given, self.video = what, 0, self

        def isOpened(self):
            return self.what == 0

        def skip(self):
            if self.given == 3:
                raise KeyboardInterrupt
            self.given += 1
            return True

        def picture(self):
            return Image.new("RGB", (16, 16), (80 * self.given,) * 3)

        def close(self):
            pass

    monkeypatch.setattr(sources, "_Capture", Camera)
    said = zoo("predict", classifier, "camera:0", "--json")
    assert said.code == 0 and [each["frame"] for each in lines(said)] == [0, 1, 2] and "3 pictures" in said.err
    assert len(lines(zoo("predict", classifier, "camera:0", "--frames", 2, "--json"))) == 2
    assert zoo("predict", classifier, "camera:1", "--json").code == 1


def test_a_joint_embedding_is_told_the_classes(zoo, mistake, joint, disk):
    told = mistake("predict", joint, disk.folder)
    assert "is a joint embedding and has no classes of its own" in told and f"zoo search {joint} --image FILE --to text" in told
    found = lines(zoo("predict", joint, disk.folder, "--classes", "dark picture,bright picture", "-k", 2, "--json"))
    assert len(found) == 32 and {each["class"] for each in found[0]["classes"]} == {"dark picture", "bright picture"}
    assert "expected two names or more" in mistake("predict", joint, disk.folder, "--classes", "dark")


def test_what_is_no_model_and_no_picture(mistake, classifier, disk, tmp_path):
    assert "is a classifier and has its own (bright, dark)" in mistake("predict", classifier, disk.folder, "--classes", "a,b")
    assert "expected a run directory, an exported folder or a .onnx file" in mistake("predict", disk.manifest, disk.folder)
    assert "no such directory" in mistake("predict", tmp_path / "gone", disk.folder)
    (tmp_path / "empty").mkdir()
    assert "no picture in this folder (.png" in mistake("predict", classifier, tmp_path / "empty")


def test_hidden_files_are_no_pictures(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", ".git/x.png", "b/.y.png", "b/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sources.pictures_in(tmp_path) == [str(tmp_path / name) for name in ("a.webp", "b/1.jpg", "b/2.PNG")]


def test_several_labels_are_a_question_each(zoo, tmp_path):
    from zoo.cli.app import run

    rows = ["image,labels,split"]
    for number in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('a', 'b', 'a|b')[number % 3]},{'eval' if number > 8 else 'train'}")
    (tmp_path / "many.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "run"
    small = ("--img-size", "32", "--batch-size", "4", "--epochs", "1")
    assert run(["train", "effnet_eca_test", "--data", str(tmp_path / "many.csv"), "--out", str(out), *small]) == 0
    (said,) = lines(zoo("predict", out, tmp_path / "3.png", "-k", 2, "--json"))
    assert abs(sum(each["probability"] for each in said["classes"]) - 1) > 1e-3
