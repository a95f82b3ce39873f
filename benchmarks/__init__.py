"""Measurements: speed, the quality of finders, of the short recipe, of the policies and of trainings without tuning.

speed             steps, range tests, trainings and sweeps, compared with torch and other packages
finder_quality    the training that follows a suggested rate, compared with the best rate
recipe_quality    the settings of the short recipe, compared with a full grid and with Optuna's searches
policy_quality    1cycle, compared with constant and piecewise-constant rates
untuned_training  searched rates, compared with usual rates and optimizers that promise to need no tuning
task_library      data, models and losses of the tasks
oracle            the best possible result on each task, kept in results/oracle.json
tables, report    from results/*.json into README.md, docs/benchmarks.md and docs/speed.png
"""
