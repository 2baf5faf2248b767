"""show > explorer: every stage of a compile in one page, from the model's line to the kernel."""
