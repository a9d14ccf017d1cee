"""From a grid to jobs, tasks and the site they run on."""
