package main

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

// handLog is a tile log by hand, x/mod/sumdb/tlog over one file: no state beside it, no signed
// head, no recovery. Those who append while the disk is busy share the next wait.
type handLog struct {
	file   *os.File
	hashes []tlog.Hash
	n      int64
	queue  chan *handEntry
	done   chan error
}

type handEntry struct {
	data    []byte
	durable chan error
}

const handBatch = 256 // as many as the store lets share one commit

func openHandLog(dir string) (*handLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, "hand.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &handLog{file: f, queue: make(chan *handEntry, handBatch), done: make(chan error, 1)}
	go l.run()
	return l, nil
}

// ReadHashes is tlog.HashReader.
func (l *handLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = l.hashes[at]
	}
	return out, nil
}

func (l *handLog) append(data []byte) error {
	e := &handEntry{data, make(chan error, 1)}
	l.queue <- e
	return <-e.durable
}

func (l *handLog) run() {
	for first := range l.queue {
		batch := []*handEntry{first}
		for more := true; more && len(batch) < handBatch; {
			select {
			case e, ok := <-l.queue:
				if more = ok; ok {
					batch = append(batch, e)
				}
			default:
				more = false
			}
		}
		err := l.write(batch)
		for _, e := range batch {
			e.durable <- err
		}
	}
	l.done <- l.file.Close()
}

func (l *handLog) write(batch []*handEntry) error {
	var out []byte
	for _, e := range batch {
		hashes, err := tlog.StoredHashes(l.n, e.data, l)
		if err != nil {
			return err
		}
		l.n++
		l.hashes = append(l.hashes, hashes...)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(e.data))), e.data...)
		for _, h := range hashes {
			out = append(out, h[:]...)
		}
	}
	if _, err := l.file.Write(out); err != nil {
		return err
	}
	return l.file.Sync()
}

func (l *handLog) stop() {
	close(l.queue)
	<-l.done
}
