"""What a request to AWS needs: a signature, and the credentials to sign with.

``signing`` is AWS Signature Version 4. ``credentials`` takes the keys of the configuration or of
the environment, else asks botocore, the extra ``ses``, for roles, profiles and SSO.
"""
