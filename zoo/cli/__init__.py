"""The command `zoo`, one file a verb.

A user's mistake is one line and exit code 2; a defect of ours is one line and exit code 1; `--debug` shows the traceback of either.
"""

from . import bench as bench
from . import bench_networks as bench_networks
from . import completion as completion
from . import data as data
from . import demo as demo
from . import distill as distill
from . import eval as eval
from . import explain as explain
from . import export as export
from . import list as list
from . import predict as predict
from . import prune as prune
from . import quantize as quantize
from . import report as report
from . import search as search
from . import serve as serve
from . import show as show
from . import swap as swap
from . import train as train
from .app import main as main
