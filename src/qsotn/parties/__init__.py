"""The parties: what each knows and may decide. They never import each other; they meet in `procedures`."""
