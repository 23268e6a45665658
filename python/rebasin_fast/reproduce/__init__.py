"""The paper's experiments, reproduced: `reproduce` measures one of them and writes its table and figure.

`recipes` says what is trained, `scales` how much of it, `lab` trains it and `store` keeps it; `measure` compares
trained networks; every module in `experiments` is one experiment, and `report` writes what it found.
"""

from rebasin_fast.reproduce.report import Beside, Report, Summary, Table
from rebasin_fast.reproduce.run import EXPERIMENTS, reproduce
from rebasin_fast.reproduce.scales import SCALES

__all__ = ["reproduce", "EXPERIMENTS", "SCALES", "Report", "Summary", "Table", "Beside"]
