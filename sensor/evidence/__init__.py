"""Evidence: the frames that are kept, in pcap files of five minutes. Written by one process, read by any."""
