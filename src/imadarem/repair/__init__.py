"""Repair: find the errors in sequences that exist already, predict those again and nothing else."""

from imadarem.repair.records import Edit, Repair
from imadarem.repair.rows import repair_rows
from imadarem.repair.settings import Checker, RepairOptions, RepairSettings

__all__ = ["Checker", "Edit", "Repair", "RepairOptions", "RepairSettings", "repair_rows"]
