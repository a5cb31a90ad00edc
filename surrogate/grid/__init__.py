"""Many trainings as one resumable job: experiments, their ledger, and the engines that run them."""
