"""Jobs on a cluster that Slurm runs: a head that submits and listens, and tasks that work on its nodes."""
