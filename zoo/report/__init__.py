"""What was trained, for people who would rather look than read: one HTML page that needs nothing else, and the pictures on it.

journal.py    what a run's files say       curves.py      metrics.jsonl as lines
command.py    the command to repeat it     confusion.py   which class is taken for which
examine.py    one evaluation pass, heard   mistakes.py, retrieved.py, looks.py   what it showed
page.py       all of it as one file        templates/     its HTML, CSS and JavaScript
"""

from .examine import Examined as Examined
from .examine import Subject as Subject
from .examine import examine as examine
from .journal import Journal as Journal
from .journal import read_journal as read_journal
from .page import page as page
