"""Many trainings as one resumable job: experiments, their ledger, and the engines that run them."""

from surrogate.grid.job import GridJob, GridProgress, Workers, plan, retry, status
from surrogate.grid.ledger import Ledger

__all__ = ["GridJob", "GridProgress", "Ledger", "Workers", "plan", "retry", "status"]
