"""The edge: names become objects here. Below it nothing is looked up; the command line and the public names of `zoo` go through it.

open_data("digits")                                        a data string -> Data
create_task("effnet_cbam_b0", data)                        a name, or {modality: tower} -> a task for the loop
create_joint({"image": ..., "text": ...}, head="mlp")      names -> JointEmbedding
load_run("runs/x")                                         what `zoo train` left -> the task again, trained
write_report(["runs/x"])                                   some runs -> one HTML page about them
"""

from .data import open_data as open_data
from .joint import create_joint as create_joint
from .model import UnknownModel as UnknownModel
from .model import create_model as create_model
from .options import each_of as each_of
from .options import named as named
from .report import write_report as write_report
from .run import Run as Run
from .run import load_run as load_run
from .task import create_task as create_task
