"""What reads experiment files and run folders: the sweep and the report. Nothing here imports torch."""
