"""What runs: trainers, stages, localizers, reports."""
