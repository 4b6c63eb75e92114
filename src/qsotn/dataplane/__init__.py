"""The OTN-CPE data plane: client bytes to encrypted OTU frames and back."""
