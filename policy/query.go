package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opametrics "github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// query is a question to one level, compiled: a term of Rego over its data and the input. It may be
// asked by many at once. It asks topdown itself: package rego on top of that keeps times and copies
// results, which is a third of what a decision allocates, and nobody here reads either.
type query struct {
	body     ast.Body
	own      ast.QueryCompiler
	compiler *ast.Compiler
	store    storage.Store
	read     storage.Transaction // for all who ask: nothing writes to the store, so it never ends
	answer   ast.Var             // what topdown binds the term to
	idle     sync.Pool           // of *asking
}

// answerVar is how the text of a query names what it asks for.
const answerVar = ast.Var("v")

// newQuery compiles the question for the value of a term.
func newQuery(term string, c *ast.Compiler, store storage.Store) (*query, error) {
	text := string(answerVar) + " := " + term
	body, err := ast.ParseBodyWithOpts(text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, err
	}
	q := &query{own: c.QueryCompiler().WithContext(ast.NewQueryContext()).WithStrict(false), compiler: c, store: store}
	if q.body, err = q.own.Compile(body); err != nil {
		return nil, err
	}
	for k, written := range q.own.RewrittenVars() {
		if written == answerVar {
			q.answer = k
		}
	}
	if q.answer == "" {
		return nil, fmt.Errorf("the compiler lost %s of %s", answerVar, text)
	}
	q.read, err = store.NewTransaction(context.Background())
	return q, err
}

// about is the question about an input, not asked yet. An error of a built-in function is one of the
// answer. Stop ends it at any step.
func (q *query) about(in ast.Value, stop topdown.Cancel) *topdown.Query {
	return topdown.NewQuery(q.body).WithQueryCompiler(q.own).WithCompiler(q.compiler).WithStore(q.store).WithTransaction(q.read).
		WithInput(ast.NewTerm(in)).WithCancel(stop).WithStrictBuiltinErrors(true).WithMetrics(opametrics.NoOp())
}

// ask returns the value of the term for an input. One that is undefined or ambiguous is an error.
func (q *query) ask(ctx context.Context, in ast.Value, stop topdown.Cancel) (*ast.Term, error) {
	a, _ := q.idle.Get().(*asking)
	if a == nil {
		a = &asking{known: newRuleCache()}
		a.query = q.about(nil, nil).WithVirtualCache(a.known)
	}
	out, err := q.run(ctx, a.query.WithInput(ast.NewTerm(in)).WithCancel(stop))
	a.query.WithInput(nil).WithCancel(nil).WithTime(time.Time{})
	a.known.forget()
	q.idle.Put(a)
	return out, err
}

// asking is what an evaluation needs and leaves as it was for the next.
type asking struct {
	query *topdown.Query
	known *ruleCache
}

func (q *query) run(ctx context.Context, asked *topdown.Query) (*ast.Term, error) {
	var out *ast.Term
	n := 0
	err := asked.Iter(ctx, func(r topdown.QueryResult) error {
		out, n = r[q.answer], n+1
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case n != 1:
		return nil, fmt.Errorf("the query gave %d answers, want 1", n)
	case out == nil:
		return nil, fmt.Errorf("the query gave no answer")
	}
	return out, nil
}
