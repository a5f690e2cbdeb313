"""What the user is told: verdicts, reports, and where ComfyUI would have computed something else."""
