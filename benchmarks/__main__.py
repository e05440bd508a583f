"""Every measurement, one after the other: ``make bench``."""

from benchmarks import encryption, takeover, time_to_code

time_to_code.main()
takeover.main()
encryption.main()
