"""What every package of the domain may use: errors, ids, settings, logs, names of keys, policies."""
