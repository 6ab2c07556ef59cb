"""beanstalkd: the queue as it comes, the fastest of ours.

``tube`` speaks its protocol, within the bounds of ``replies``; ``broker`` spreads jobs over several
servers; ``events`` reads what other programs put there.
"""
