"""A data string to data: a registered name, a folder, a manifest, captions, or what another library reads."""

from pathlib import Path

from registry import DATASETS

from ..datasets import Data, read_coco, read_flickr, read_folder, read_hf, read_manifest, read_shards, read_timm

_MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet")
_READERS = {"hf": read_hf, "timm": read_timm, "wds": read_shards}
_CAPTIONS = {".json": read_coco, ".token": read_flickr, ".txt": read_flickr}


def open_data(data: str | Path | Data, *, broken: bool = False) -> Data:
    """Open what a data string names: a registered name, a folder of class folders, a manifest, or a caption file of COCO or Flickr.

    A registered name may carry options: "glyphs:characters=200". So may "timm:STRING", "hf:NAME_OR_DIR" and "wds:SHARDS".

    Args:
        data: the data string.
        broken: open it also where pictures are missing or broken; whoever reads such a row meets a BrokenPicture.

    Raises:
        KeyError: neither a registered name nor a path; the nearest names are offered.
        ValueError, FileNotFoundError: what is wrong with the folder or the manifest, with file and line.
    """
    if isinstance(data, Data):
        return data
    if not str(data):
        raise ValueError(f"data: expected a name ({', '.join(sorted(DATASETS))}), a folder or a manifest, got ''")
    name, _, options = str(data).partition(":")
    if name in DATASETS:
        given = dict(each.partition("=")[::2] for each in options.split(",") if each)
        if wrong := [f"{key}={value}" for key, value in given.items() if not value.removeprefix("-").isdecimal()]:
            raise ValueError(f"data {str(data)!r}: {wrong[0]} is no number; expected options such as glyphs:characters=200")
        try:
            return DATASETS[name](**{key: int(value) for key, value in given.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"data {str(data)!r}: {error}; expected options such as glyphs:characters=200") from error
    if name in _READERS and ":" in str(data):
        return _READERS[name](str(data))
    path = Path(data)
    if path.suffix.lower() in _MANIFESTS:
        return read_manifest(path, broken=broken)
    if path.is_dir():
        return read_folder(path)
    if path.is_file() and path.suffix.lower() in _CAPTIONS:
        return _CAPTIONS[path.suffix.lower()](path, broken=broken)
    if path.exists():
        captions = "or captions (COCO's and Karpathy's .json, Flickr's .token and captions.txt)"
        raise ValueError(f"data {path}: expected a folder of class folders, a manifest ({', '.join(_MANIFESTS)}), {captions}")
    if path.name == str(data) and not path.suffix:
        return DATASETS[str(data)]  # raises, with the nearest names
    raise FileNotFoundError(f"data {path}: no such folder or file; registered names: {', '.join(sorted(DATASETS))}")
