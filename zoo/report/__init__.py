"""What a trained network has learned, to look at: the page about it, where its gates look, and what its decision rests on.

attention_maps.py, grad_cam.py, overlay.py, explain.py, figure.py    where a network looks, as numbers and as pictures

journal.py    what a run's files say          curves.py      metrics.jsonl as lines
command.py    the command to repeat it        confusion.py   which class is taken for which
examine.py    one evaluation pass, heard      mistakes.py, retrieved.py, looks.py   what it showed
facts.py, costs.py, tables.py   in words and numbers      page.py, templates/   all of it as one HTML file
"""

from .attention_maps import AttentionMap as AttentionMap
from .attention_maps import attention_maps as attention_maps
from .examine import Examined as Examined
from .examine import Subject as Subject
from .examine import examine as examine
from .explain import Gate as Gate
from .explain import Look as Look
from .explain import look as look
from .figure import draw as draw
from .figure import rendered as rendered
from .grad_cam import grad_cam as grad_cam
from .journal import Journal as Journal
from .journal import read_journal as read_journal
from .overlay import overlay as overlay
from .page import page as page
