package workbench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
)

// inputsDir is where a tree keeps questions.
const inputsDir = "inputs"

// ErrInputs means that a file or folder of inputs has none in it, or none that can be read.
var ErrInputs = errors.New("no policy inputs there")

// Question is an input, and where it comes from.
type Question struct {
	From  string // a file, or the ID of a recorded decision
	Input policy.Input
}

// Read yields questions. path is
//
//	a file *.json with one input
//	a folder of such files
//	whatever package decision reads: segments of a decision log, or an export of them. Decisions
//	that a masking rule changed are left out: they are not what was asked
//
// It ends with the first error, which wraps ErrInputs or an error of package decision.
func Read(path string) iter.Seq2[Question, error] {
	return func(yield func(Question, error) bool) {
		files, err := inputFiles(path)
		switch {
		case err != nil:
			yield(Question{}, fmt.Errorf("%w: %w", ErrInputs, err))
			return
		case files == nil:
			recorded(path, yield)
			return
		}
		for _, file := range files {
			q := Question{From: file}
			b, err := bounded.ReadFile(file, policy.MaxInput)
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrInputs, err)
			} else {
				if q.Input, err = policy.ParseInput(b); err != nil {
					err = fmt.Errorf("%w: %v", ErrInputs, jsonfile.In(file, err)) // no denial: nobody was asked
				}
			}
			if !yield(q, err) || err != nil {
				return
			}
		}
	}
}

// inputFiles lists the files of one input each; nil where path is a decision log.
func inputFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if filepath.Ext(path) == ".json" && !isLog(path) {
			return []string{path}, nil
		}
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(path, "*.json"))
	slices.Sort(files)
	return files, err
}

// isLog tells an export of decisions, a line each, from one input over many lines.
func isLog(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, decision.MaxEvent)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return false
	}
	_, err = decision.ParseEvent(bytes.TrimSpace(line))
	return err == nil
}

func recorded(path string, yield func(Question, error) bool) {
	any := false
	for e, err := range decision.Read(path) {
		if err == nil && !e.Replayable() {
			continue
		}
		q := Question{From: e.DecisionID}
		if err == nil {
			if q.Input, err = policy.ParseInput(e.Input); err != nil {
				err = fmt.Errorf("%w: %s: decision %s: %v", ErrInputs, path, e.DecisionID, err)
			}
		}
		any = true
		if !yield(q, err) || err != nil {
			return
		}
	}
	if !any {
		yield(Question{}, fmt.Errorf("%w: %s", ErrInputs, path))
	}
}

// Inputs are the questions that a tree has in its own folder for them; none is no error.
func (t *Tree) Inputs() iter.Seq2[Question, error] {
	dir := filepath.Join(t.Dir, inputsDir)
	if t.single() {
		dir = filepath.Join(t.Dir, "..", inputsDir)
	}
	return func(yield func(Question, error) bool) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		for q, err := range Read(dir) {
			if errors.Is(err, decision.ErrNothing) || errors.Is(err, ErrInputs) || !yield(q, err) {
				return
			}
		}
	}
}

// single reports whether the tree is the folder of one level.
func (t *Tree) single() bool {
	return slices.ContainsFunc(t.Levels, func(l Level) bool { return l.Dir == t.Dir })
}
