"""Reads pcap and pcapng files into the same batches of frames that live capture produces."""
