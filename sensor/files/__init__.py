"""Reading capture files, pcap and pcapng, into the same batches of frames that live capture gives."""
