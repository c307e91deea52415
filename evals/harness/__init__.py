"""How a comparison is run: jobs, where they run, and what each of them measures."""
