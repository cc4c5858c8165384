"""Data: what a name, a folder or a manifest becomes, and how a picture file is read. Importing it registers `digits` and `glyphs`."""

from . import digits as digits
from . import glyphs as glyphs
from .check import check_data as check_data
from .coco import read_coco as read_coco
from .data import Data as Data
from .data import Row as Row
from .data import Split as Split
from .flickr import read_flickr as read_flickr
from .folder import read_folder as read_folder
from .hf import read_hf as read_hf
from .manifest import read_manifest as read_manifest
from .picture import BrokenPicture as BrokenPicture
from .picture import read_picture as read_picture
from .shards import read_shards as read_shards
from .shards import runs_a_command as runs_a_command
from .timm_data import read_timm as read_timm
