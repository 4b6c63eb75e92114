"""Key delivery to SAEs: ready keys from a key store, across two key managers, by ETSI GS QKD 014."""
