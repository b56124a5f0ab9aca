"""Tools that run Retouch: the local stack, the deployment files, the simulator and the benchmarks."""
