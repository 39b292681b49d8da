"""What is asked: from a suite file to its cases, and what may be tried of each."""
