"""beanstalkd: the hint that an e-mail is due. Nothing is lost when it is."""
