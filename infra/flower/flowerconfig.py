"""Fixed settings of Flower, which reads this file instead of a `flowerconfig.py` in the working directory.

The operator's settings are command-line options (`infra.flower.serve`), which override this file.
"""

# Columns of the task list. The id of an edit task is the job id; its arguments are the job id and the attempt number.
tasks_columns = "name,uuid,state,args,received,started,runtime,worker"
natural_time = False
# Upper bounds of flower_task_runtime_seconds, in seconds. An edit takes 1 to 100 s.
task_runtime_metric_buckets = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]
# Hide workers that have been offline for a day.
purge_offline_workers = 86400
# In milliseconds. A killed Flower loses the events since the last save; a stopped one saves first.
state_save_interval = 60_000
