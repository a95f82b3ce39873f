"""Measurements: speed, the quality of finders, of the short recipe and of the policies.

speed           steps, range tests, trainings and sweeps, compared with torch and other packages
finder_quality  the training that follows a suggested rate, beside the best rate
recipe_quality  the settings of the short recipe, beside a full grid
policy_quality  1cycle, beside constant and piecewise-constant rates
task_library    what the tasks of all of them are made of
oracle          the best that there is on a task, kept in results/oracle.json
tables, report  from results/*.json into the README and docs/speed.png
"""
