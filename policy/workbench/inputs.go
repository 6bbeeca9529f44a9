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

// ErrInputs means that a file or folder of inputs has none in it, or one that cannot be asked. The
// message says which, with its line.
var ErrInputs = errors.New("no policy inputs that can be asked")

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
		yield(Question{}, fmt.Errorf("%w: %s: %w", ErrInputs, path, errNone))
	}
}

// errNone tells a place without questions from one with questions that are wrong.
var errNone = errors.New("nothing is in it")

// Inputs are the questions that a tree has in its own folder for them; none is no error.
func (t *Tree) Inputs() iter.Seq2[Question, error] {
	return func(yield func(Question, error) bool) {
		dir := t.inputs()
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		for q, err := range Read(dir) {
			if errors.Is(err, decision.ErrNothing) || errors.Is(err, errNone) || !yield(q, err) {
				return
			}
		}
	}
}

// inputs is the folder of a tree's own questions.
func (t *Tree) inputs() string {
	if t.single() {
		return filepath.Join(t.Dir, "..", inputsDir)
	}
	return filepath.Join(t.Dir, inputsDir)
}

// inputMistakes are all mistakes in the questions of a tree's own, each a policy.Mistake with its
// place where it has one. They wrap ErrInputs.
func (t *Tree) inputMistakes() error {
	files, err := inputFiles(t.inputs())
	if errors.Is(err, fs.ErrNotExist) || t.Signed {
		return nil
	}
	errs := []error{err}
	for _, file := range files {
		b, err := bounded.ReadFile(file, policy.MaxInput)
		if err == nil {
			_, err = policy.ParseInput(b)
		}
		var list jsonfile.Error
		switch {
		case errors.As(err, &list):
			for _, m := range list {
				errs = append(errs, &policy.Mistake{Is: ErrInputs, File: file, Line: m.Line, Column: m.Column, Message: m.Text, Source: m.Source})
			}
		case err != nil:
			errs = append(errs, fmt.Errorf("%w: %s: %w", ErrInputs, file, err))
		}
	}
	return errors.Join(errs...)
}

// single reports whether the tree is the folder of one level.
func (t *Tree) single() bool {
	return slices.ContainsFunc(t.Levels, func(l Level) bool { return l.Dir == t.Dir })
}
