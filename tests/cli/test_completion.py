"""What the shells offer after Tab: the written scripts, read by the shells themselves."""

import shutil
import subprocess

import pytest

SHELLS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "-n"]}
TAB = {
    ("tr",): ["train"],
    ("train", "effnet_coord_b0", "--prec"): ["--precision"],
    ("train", "effnet_coord_b0", "--precision", "b"): ["bf16"],
    ("train", "effnet_coord_lite"): [f"effnet_coord_lite{number}" for number in range(5)],
    ("swap", "runs/x", "cbam"): ["cbam"],
    ("quantize", "runs/x", "--to", "openvino-i"): ["openvino-int8"],
    ("export", "runs/x", "--to", "torch-"): ["torch-export"],
    ("bench", "atten"): ["attention"],
    ("bench", "attention", "cb"): ["cbam"],
    ("bench", "loss", "sig"): ["siglip"],
    ("data", "check", "gly"): ["glyphs"],
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The file of a shell, or a skip where there is no such shell."""
    from zoo.cli.app import run

    def write(shell, capture):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert run(["completion", shell]) == 0
        file = tmp_path_factory.mktemp(shell) / f"zoo.{shell}"
        file.write_text(capture.readouterr().out)
        return file

    return write


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_it(script, capsys, shell):
    done = subprocess.run([*SHELLS[shell], script(shell, capsys)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_bash_offers_what_could_be_meant(script, capsys):
    file = script("bash", capsys)
    lines = [f"source {file}"]
    for words in TAB:
        quoted = " ".join(f"'{word}'" for word in words)
        lines.append(f'COMP_WORDS=(zoo {quoted}); COMP_CWORD={len(words)}; _zoo; echo "${{COMPREPLY[@]}}"')
    said = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert dict(zip(TAB, said, strict=True)) == {words: " ".join(sorted(found)) for words, found in TAB.items()}


def test_fish_offers_what_could_be_meant(script, capsys):
    file = script("fish", capsys)
    for words, found in TAB.items():
        done = subprocess.run(
            ["fish", "-c", f"source {file}; complete -C 'zoo {' '.join(words)}'"], capture_output=True, text=True, check=True
        )
        assert {line.partition("\t")[0] for line in done.stdout.splitlines()} >= set(found), words


def test_another_shell_is_answered_in_one_line(zoo):
    said = zoo("completion", "fsh")
    assert said.code == 2 and "did you mean 'fish'" in said.err
