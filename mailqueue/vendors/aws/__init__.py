"""What a request to AWS needs: a signature, and the credentials to sign with."""
