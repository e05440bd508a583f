"""Every measurement, one after the other: ``make bench``."""

from benchmarks import cold_start, encryption, takeover, time_to_code, time_to_link

for each in (time_to_code, time_to_link, cold_start):
    each.BENCHMARK.run([])
takeover.main()
encryption.main()
