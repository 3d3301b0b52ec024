"""Sampling: one loop, the policies that steer it, and batches through it."""
