"""What built-in models and jobs are made of, one file each."""
