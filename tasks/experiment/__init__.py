"""The statistics of experiments: values in, values out. It imports nothing of the fleet.

Its modules are named for the question that they answer; all tests are two-sided.
"""
