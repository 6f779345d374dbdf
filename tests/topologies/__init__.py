"""Flows with a known answer on Redis with Sentinels and on Redis Clusters that are struck."""
