"""Forms made from the options of a class. There is no list of fields here: `options_of` is read, and checked by the class itself."""

from __future__ import annotations

import dataclasses
import html
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import ipywidgets

from workbench.options import Option, Options, entry, name_in, options_of

from .fields import Choice, Field, Flag, Number, Text, label

OTHER: Final = "other ..."
NONE: Final = "none"


class Form:
    """The options of a class as rows; `value()` is the value they stand for.

    `own` gives fields of their own to some options; a field may stand for several options (see `Named`).
    """

    def __init__(self, cls: type[Options], value: Options | None = None, own: Mapping[str, Field] | None = None, omit: Sequence[str] = ()) -> None:
        self.cls = cls
        self.also: Callable[[Any], None] | None = None
        """One more check of the value, that needs to know more than the class; raises ValueError."""
        self.wrong = ""
        """What the last check found."""
        self.fields: dict[str, Field] = {}
        for described in options_of(cls):
            if described.name in (own or {}):
                self.fields[described.name] = (own or {})[described.name]
            elif described.name not in omit:
                self.fields[described.name] = field_for(described)
        self._watchers: list[Callable[[], None]] = []
        self._quiet = False
        self._problem = ipywidgets.HTML(layout={"display": "none"})
        self.root = ipywidgets.VBox([*(field.root for field in self.fields.values()), self._problem]).add_class("workbench-form")
        for field in self.fields.values():
            field.watch(self._changed)
        if value is not None:
            self.show(value)
        self.check()

    def rows(self, *names: str) -> list[ipywidgets.Widget]:
        """The rows of some fields, to be placed elsewhere."""
        return [self.fields[name].root for name in names]

    @property
    def problem(self) -> ipywidgets.Widget:
        """Where an error is shown that belongs to no row."""
        return self._problem

    def value(self) -> Any:
        """The value that the rows stand for; ValueError in its own words where it is none."""
        keywords: dict[str, Any] = {}
        for field in self.fields.values():
            keywords |= field.values()
        return self.cls(**keywords)

    def show(self, value: Options) -> None:
        """Put a value into the rows."""
        self._quiet = True
        try:
            for name, field in self.fields.items():
                field.show(getattr(value, name) if not isinstance(field, Named) else (getattr(value, name), getattr(value, field.options_name)))
        finally:
            self._quiet = False
        self._changed()

    def check(self) -> str:
        """The words for what is wrong, "" if nothing is; shown at the row that they name."""
        words = dict.fromkeys(self.fields, "")
        rest = first = ""
        for name, field in self.fields.items():
            try:
                field.values()
            except ValueError as error:
                words[name] = str(error)
                first = first or str(error)
        if not first:
            try:
                value = self.value()
                if self.also is not None:
                    self.also(value)
            except ValueError as error:
                first = str(error)
                named = re.match(rf"{self.cls.__name__}\((\w+)=", first)
                if named and named[1] in words:
                    words[named[1]] = first
                else:
                    rest = first
        self.wrong = first
        for name, field in self.fields.items():
            field.error = words[name]
        self._problem.value = f'<div class="workbench-error" role="alert">{html.escape(rest)}</div>' if rest else ""
        self._problem.layout.display = None if rest else "none"
        return first

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after every change of any row."""
        self._watchers.append(callback)

    def enable(self, on: bool) -> None:
        """Whether it can be changed."""
        for field in self.fields.values():
            field.enable(on)

    def explain(self, on: bool) -> None:
        """Show or hide the help of every row."""
        for field in self.fields.values():
            field.explain(on)

    def _changed(self) -> None:
        if self._quiet:
            return
        self.check()
        for callback in self._watchers:
            callback()


class Entry(Field):
    """An entry of a table, or none where there may be none: a drop-down of names and, below it, the form of the class that is chosen."""

    def __init__(self, described: Option, extra: Sequence[str] = ()) -> None:
        self.table: Mapping[str, Any] = described.table or {}
        self._callbacks: list[Callable[[], None]] = []
        self._forms: dict[str, Form] = {}
        self._shown_help = False
        names = [*([NONE] if described.optional else []), *self.table, *extra]
        start = name_in(self.table, described.default) if isinstance(described.default, Options) else described.default or NONE
        super().__init__(described, ipywidgets.Dropdown(options=names, value=start, description=label(described.name)))
        self._place = ipywidgets.VBox().add_class("workbench-nested")
        self.root.children = [*self.root.children, self._place]
        self.control.observe(lambda _change: self._chosen(), "value")
        self._chosen()
        if isinstance(described.default, Options):
            self.show(described.default)

    @property
    def form(self) -> Form | None:
        """The form of the class that is chosen; None where there is none."""
        name = self.control.value
        if name not in self.table:
            return None
        if name not in self._forms:
            self._forms[name] = Form(self.table[name])
            self._forms[name].watch(self._pass_on)
            self._forms[name].explain(self._shown_help)
        return self._forms[name]

    def values(self) -> dict[str, Any]:
        """The value that is chosen and filled in."""
        return {self.described.name: self.form.value() if self.form else None}

    def show(self, value: Any) -> None:
        """Choose the value's class and fill in its form."""
        value = entry(self.table, self.described.name, value, self.described.optional)
        self.control.value = NONE if value is None else name_in(self.table, value)
        if self.form:
            self.form.show(value)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after every change, of the choice or in its form."""
        self._callbacks.append(callback)
        super().watch(callback)

    def enable(self, on: bool) -> None:
        """Whether it can be changed, its form included."""
        super().enable(on)
        if self.form:
            self.form.enable(on)

    @property
    def error(self) -> str:
        """The words for what is wrong here or in the form below."""
        return self._error

    @error.setter
    def error(self, words: str) -> None:
        # the form below shows its own words; once is enough
        self._error = "" if words and self.form is not None and self.form.check() == words else words
        self._write()

    def explain(self, on: bool) -> None:
        """Show or hide the help, that of the form below included."""
        self._shown_help = on
        for form in self._forms.values():
            form.explain(on)
        super().explain(on)

    def help(self) -> str:
        """What the field is for, and what is chosen: the first line of its class."""
        about = inspect.getdoc(self.table[self.control.value]) if self.control.value in self.table else None
        return " ".join(filter(None, [f"{self.described.help}." if self.described.help else "", (about or "").partition("\n")[0]]))

    def _pass_on(self) -> None:
        for callback in self._callbacks:
            callback()

    def _chosen(self) -> None:
        rows = [self.form.root] if self.form and self.form.fields else []
        if self.form:
            self.form.enable(not self.control.disabled)
        self._place.children = rows
        self._place.layout.display = None if rows else "none"
        self._write()


@final
class Named(Entry):
    """A name of a table and its options as two fields of the owner, or a callable of one's own by its path."""

    def __init__(self, described: Option, options: Option, table: Mapping[str, type[Options]]) -> None:
        super().__init__(dataclasses.replace(described, table=table), extra=(OTHER,))
        self.options_name = options.name
        self._path = Text(dataclasses.replace(described, name=f"{described.name}_path", default="", help="package.module:callable"))
        self._path.control.placeholder = "package.module:callable"
        self._keywords = Text(options)
        for field in (self._path, self._keywords):
            field.watch(self._pass_on)
        self._other = [self._path.root, self._keywords.root]

    def values(self) -> dict[str, Any]:
        """Name and options."""
        if self.form is None:
            return {self.described.name: self._path.control.value.strip(), **self._keywords.values()}
        value = self.form.value()
        defaults = type(value)().to_json()
        changed = {name: given for name, given in value.to_json().items() if given != defaults[name]}
        return {self.described.name: self.control.value, self.options_name: changed}

    def show(self, value: Any) -> None:
        """Choose a name and fill in its options: (name, options)."""
        name, options = value
        if name in self.table:
            self.control.value = name
            if self.form:
                self.form.show(self.table[name].from_json(options))
        else:
            self.control.value = OTHER
            self._path.show(name)
            self._keywords.show(options)

    def enable(self, on: bool) -> None:
        """Whether it can be changed."""
        super().enable(on)
        self._path.enable(on)
        self._keywords.enable(on)

    def _chosen(self) -> None:
        super()._chosen()
        if self.form is None:
            self._place.children = self._other
            self._place.layout.display = None


def field_for(described: Option) -> Field:
    """The row for an option, by its kind."""
    if described.table is not None and not described.several:
        return Entry(described)
    if described.choices is not None:
        return Choice(described)
    if described.kind is bool:
        return Flag(described)
    if described.kind in (int, float) and not described.optional:
        return Number(described)
    return Text(described)
