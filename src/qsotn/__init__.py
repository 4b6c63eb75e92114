"""qsotn: the open quantum-secure OTN leased-line platform.

The system of "Quantum-Secure OTN Framework Integrating QKD-PQC Technologies" (Zhang et al., 2025), built whole. With
the paper in hand, read `interfaces` (Table 2), `procedures.initialization` (Figure 3) and `procedures.leased_line`
(Figure 4), in this order.
"""

__version__ = "0.1.0"
