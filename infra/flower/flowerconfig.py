"""What never changes about our Flower; Flower reads this file instead of a `flowerconfig.py` of the working directory.

What an operator chooses comes over the command line (`infra.flower.serve`), which wins over this file.
"""

# Columns of the task list: an edit's id is its job's id, and its arguments are that id and the attempt's number.
tasks_columns = "name,uuid,state,args,received,started,runtime,worker"
natural_time = False
# Upper bounds of flower_task_runtime_seconds, in seconds: an edit takes one to a hundred.
task_runtime_metric_buckets = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]
# A worker that is gone for a day is of no interest any more.
purge_offline_workers = 86400
# Saved on every stop, and so often in between: what a killed Flower forgets. In milliseconds.
state_save_interval = 60_000
