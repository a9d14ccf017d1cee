"""Jobs: what each computes, what it needs and asks for, and the plan they make up."""
