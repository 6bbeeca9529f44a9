package decision

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
)

// DirName is the folder of segments in a node's state folder.
const DirName = "decisions"

const (
	segmentEnding = ".ndjson.gz"
	segmentDigits = 12
)

// ErrNothing means that there are no recorded decisions where they were looked for.
var ErrNothing = errors.New("no recorded decisions there")

// Read yields recorded decisions, oldest first. path is
//
//	a folder with segments, a node's state folder, or its trail beside them
//	a segment
//	an export in OPA's format: lines of JSON, as they are or in gzip
//
// What is sealed is opened with the keys beside the folder of segments; an event whose payload was erased
// says by whom and when, one whose key is not there keeps its box. It ends with the first error: ErrNothing,
// ErrSegment, ErrEvent, payload.ErrBox, payload.ErrKeys, or the file system's. Nothing else is verified but
// the form; that is for Verify. Errors say which file, or which event of it.
func Read(path string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		n := 0
		for line, err := range Lines(path) {
			var e Event
			if n++; err == nil {
				if e, err = ParseEvent(line); err != nil {
					err = fmt.Errorf("%s: event %d: %w", path, n, err)
				}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Lines is Read for those who parse the events themselves, several at once. A line is valid until
// the next one is asked for.
func Lines(path string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := eachLine(path, yield); err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

var errEnough = errors.New("the caller has enough")

func eachLine(path string, yield func([]byte, error) bool) error {
	files, err := sources(path)
	if err != nil {
		return err
	}
	keys := payload.NewReader(filepath.Join(filepath.Dir(files[0]), "..", payload.DirName))
	give := func(line []byte) error {
		line, err := openLine(line, keys)
		if err != nil {
			return err
		}
		if !yield(line, nil) {
			return errEnough
		}
		return nil
	}
	for _, name := range files {
		if err := linesOf(name, give); err != nil {
			if errors.Is(err, errEnough) {
				return err
			}
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// openLine opens an event that is sealed, and leaves any other line as it is.
func openLine(line []byte, keys opener) ([]byte, error) {
	if !bytes.Contains(line, []byte(`"sealed":{`)) {
		return line, nil
	}
	e, err := ParseEvent(line)
	if err != nil {
		return nil, err
	}
	if err := e.open(keys); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// sources finds the files that path means.
func sources(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	for _, dir := range []string{path, filepath.Join(path, DirName), filepath.Join(path, "..", DirName)} {
		files, err := segmentFiles(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(files) > 0 {
			return files, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: want a folder with *%s, a node's state folder, or an exported file", ErrNothing, path, segmentEnding)
}

// segmentFiles lists the segments in a folder by their numbers.
func segmentFiles(dir string) (out []string, err error) {
	entries, err := os.ReadDir(dir) // sorted by name, and all numbers have one length
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, ok := segmentNumber(e.Name()); ok {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

func segmentName(number uint64) string {
	return fmt.Sprintf("%0*d%s", segmentDigits, number, segmentEnding)
}

func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentEnding)
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil && len(digits) == segmentDigits
}

// linesOf reads one file: a segment, or an export.
func linesOf(name string, give func([]byte) error) error {
	if _, ok := segmentNumber(filepath.Base(name)); ok {
		b, err := readFile(name)
		if err != nil {
			return err
		}
		_, _, err = readSegment(b, give)
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return exportLines(f, give)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSegmentFile+1))
	if err == nil && len(b) > MaxSegmentFile {
		err = fmt.Errorf("%w: more than %d bytes", ErrSegment, MaxSegmentFile)
	}
	return b, err
}

// exportLines reads lines of JSON. The header of a segment that was unpacked by hand is skipped.
func exportLines(r io.Reader, give func([]byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrEvent, err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), MaxEvent+1)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || (n == 1 && bytes.HasPrefix(line, []byte(`{"segment":`))) {
			continue
		}
		if err := give(line); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %v", ErrEvent, err)
	}
	return nil
}
