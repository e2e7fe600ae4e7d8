"""Evidence: the frames that are kept, in pcap files of five minutes, and their index."""
