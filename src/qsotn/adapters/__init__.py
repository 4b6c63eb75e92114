"""Adapters: what joins the core to stores, wires and devices."""
