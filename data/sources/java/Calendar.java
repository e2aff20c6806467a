abstract class Event {
    protected String title;

    abstract int length();

    final String show() {
        return title + ": " + length();
    }
}

class Meeting extends Event {
    private final int start;
    private final int end;

    Meeting(int start, int end) {
        this.start = start;
        this.end = end;
    }

    @Override
    int length() {
        return end - start;
    }
}
