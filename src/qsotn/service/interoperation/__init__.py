"""Keys across the border: to and from key managers, SAEs and devices that are not of this platform.

`etsi020*` exchanges keys with key managers of other operators, `etsi004*` gives SAEs streams of key instead of single
keys, `etsi015` shows a key manager as the standard's YANG module does, and `ingestion` takes blocks that a QKD device
left in files. What is read here was written by others: it is checked whole before anything of it is taken.
"""
