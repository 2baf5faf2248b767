"""What users look at: progress, text reports, the HTML report."""
