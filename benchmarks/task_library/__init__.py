"""Parts of the tasks: their definition, data, models and losses."""
